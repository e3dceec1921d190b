"""Other libraries, through their public interfaces; one file each."""
