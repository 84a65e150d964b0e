"""Files of images: what is read of them; and segmentations, reports and pictures as they are written."""
