"""What agents keep beyond a session: typed blocks, an archive to search, and what keeps secrets out of it."""
