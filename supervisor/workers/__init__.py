"""Worker processes and their templates: started, watched, replaced. Runs in the front."""
