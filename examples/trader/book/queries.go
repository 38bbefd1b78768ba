package book

// Ladder asks for the best levels of both sides and the latest trades.
type Ladder struct {
	// Depth is how many levels of each side; 0 means all.
	Depth int
}

// View is a book as people see it.
type View struct {
	Company  string   `json:"company"`
	Tick     Price    `json:"tick"`
	Lot      Quantity `json:"lot"`
	Shares   Quantity `json:"shares"`
	Allotted Quantity `json:"allotted"`
	Bids     []Rung   `json:"bids"` // best first
	Asks     []Rung   `json:"asks"` // best first
	Trades   int64    `json:"trades"`
	Tape     []Trade  `json:"tape"` // newest first
}

// Rung is a level in sum.
type Rung struct {
	Price    Price    `json:"price"`
	Quantity Quantity `json:"quantity"`
	Orders   int      `json:"orders"`
}

// Answer sums up the levels.
func (q Ladder) Answer(b Book) (View, error) {
	if b.Company == "" {
		return View{}, ErrNotOpen
	}
	tape := make([]Trade, 0, len(b.Recent))
	for i := len(b.Recent) - 1; i >= 0; i-- {
		tape = append(tape, b.Recent[i])
	}
	return View{
		Company: b.Company, Tick: b.Tick, Lot: b.Lot, Shares: b.Shares, Allotted: b.Allotted,
		Bids: rungs(b.Bids, q.Depth), Asks: rungs(b.Asks, q.Depth), Trades: b.Trades, Tape: tape,
	}, nil
}

func rungs(levels []Level, depth int) []Rung {
	if depth <= 0 || depth > len(levels) {
		depth = len(levels)
	}
	out := make([]Rung, 0, depth)
	for i := len(levels) - 1; i >= len(levels)-depth; i-- {
		r := Rung{Price: levels[i].Price, Orders: len(levels[i].Orders)}
		for _, o := range levels[i].Orders {
			r.Quantity += o.Remaining
		}
		out = append(out, r)
	}
	return out
}

// Resters asks for every open order.
type Resters struct{}

// Rester is one open order.
type Rester struct {
	Order     OrderID     `json:"order"`
	Portfolio PortfolioID `json:"portfolio"`
	Side      Side        `json:"side"`
	Price     Price       `json:"price"`
	Remaining Quantity    `json:"remaining"`
}

// Answer lists both sides in priority order, bids first.
func (Resters) Answer(b Book) ([]Rester, error) {
	if b.Company == "" {
		return nil, ErrNotOpen
	}
	out := make([]Rester, 0, len(b.Open))
	for _, side := range []Side{Buy, Sell} {
		levels := *b.side(side)
		for i := len(levels) - 1; i >= 0; i-- {
			for _, o := range levels[i].Orders {
				out = append(out, Rester{Order: o.ID, Portfolio: o.Portfolio, Side: side, Price: levels[i].Price, Remaining: o.Remaining})
			}
		}
	}
	return out, nil
}
