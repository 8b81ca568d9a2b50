"""From files of strangers to checked values: elements by type and bounds, character sets, frames, what was left out."""
