"""The caller: a token becomes a member, whose rate is limited and who sees their own rows."""
