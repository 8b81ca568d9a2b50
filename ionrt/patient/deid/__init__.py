"""De-identification by an allow-list: what has no row does not leave."""
