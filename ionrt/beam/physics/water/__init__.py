"""A beam through water: primaries, what they break into, all of it together."""
