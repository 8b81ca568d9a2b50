"""What the numbers of base data depend on, and nothing else: the hash of this folder is their key."""
