"""What is measured: how long models run and how far sites are apart."""
