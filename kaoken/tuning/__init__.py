"""`kaoken tune`: a small search for schedules that are faster than kaoken's own on this CPU."""
