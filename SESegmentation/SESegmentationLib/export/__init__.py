"""Results that travel: as DICOM for archives, as tables for other tools, as pages to look at."""
