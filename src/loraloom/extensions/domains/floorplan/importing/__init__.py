"""Import plans of public datasets: RPLAN, Tell2Design, House-GAN++; the user supplies the files."""
