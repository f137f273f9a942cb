"""Gates: verdict rows beside the images, never instead of them."""
