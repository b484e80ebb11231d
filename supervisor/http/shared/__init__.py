"""What the routes of several APIs share. Runs in the front."""
