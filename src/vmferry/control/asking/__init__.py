"""What a VM answers: what it can, how far its migration is, how it ended, and how its guest writes."""
