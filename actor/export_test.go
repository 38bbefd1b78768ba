package actor

// Hurried is how many aggregates wait for a load before their turn.
func (h *Host) Hurried() int {
	h.loader.mu.Lock()
	defer h.loader.mu.Unlock()
	return len(h.loader.hot)
}
