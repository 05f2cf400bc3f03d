"""What Streams see of the River: landmarks chosen for all of them, and a focus set chosen for one task."""
