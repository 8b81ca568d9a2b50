"""From spots to entries: the dose of every spot in every voxel near it."""
