"""What agents keep beyond a session: typed blocks, an archive that can be searched, and what keeps secrets out of it."""
