"""What a session is opened with, what is sent to it, and what of it may change: checked and recorded."""
