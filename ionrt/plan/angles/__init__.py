"""Directions: what each reaches, and which are good."""
