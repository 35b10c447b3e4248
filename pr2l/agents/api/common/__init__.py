"""What APIs share: keys, requests in parallel, and images as PNG files."""
