"""Who calls: a token becomes a member, who may do so much so fast and is shown what is theirs."""
