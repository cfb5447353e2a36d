"""What the bytes of image files become: headers, pixels, or a reason; in processes of their own if asked."""
