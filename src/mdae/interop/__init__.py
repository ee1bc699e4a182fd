"""Weights from elsewhere and for elsewhere: third-party encoders behind one interface, and exports to other systems."""
