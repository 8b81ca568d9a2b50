"""What a plan is and what it stands on: rooms, beams, objectives, the patient as the beam sees it, spots."""
