"""What is wrong with a raw folder, before anything is made of it."""
