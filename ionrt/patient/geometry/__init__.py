"""Voxels: grids, structures as fractions of voxels, margins."""
