"""A small made-up room, on which the tests try the course engine."""
