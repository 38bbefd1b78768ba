package actor

// AtRest reports whether no timer is on its way, due, or to be loaded.
func (h *Host) AtRest() bool {
	s := h.timers
	if s == nil {
		return true
	}
	if batch, _ := s.wanted(); len(batch) > 0 {
		return false
	}
	now := h.clock.Wall()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kept {
		if k.loading {
			return false
		}
	}
	return s.inFlight == 0 && (len(s.due) == 0 || s.due[0].at.After(now))
}
