"""Shows what was rendered: a picture, and a page with a player."""
