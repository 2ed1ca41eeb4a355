"""Internal: rules on the base itself, so that its faults are not charged to an adapter."""
