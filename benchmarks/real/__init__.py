"""Real people: what the library does with photographs, recordings and talking clips that nobody made for it."""
