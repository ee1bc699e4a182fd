"""Using a trained network on scans."""
