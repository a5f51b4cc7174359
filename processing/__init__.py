"""Read the licence plates in videos and still images."""
