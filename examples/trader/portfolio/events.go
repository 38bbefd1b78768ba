package portfolio

// Opened says that the portfolio exists, with cash that counts as a deposit.
type Opened struct {
	Owner string
	Cash  Cents
}

// Evolve opens it.
func (e Opened) Evolve(p *Portfolio) {
	p.Owner = e.Owner
	p.Available += e.Cash
	p.Deposits += e.Cash
}

// Deposited says that cash came in.
type Deposited struct{ Cents Cents }

// Evolve adds it.
func (e Deposited) Evolve(p *Portfolio) {
	p.Available += e.Cents
	p.Deposits += e.Cents
}

// Withdrawn says that cash went out.
type Withdrawn struct{ Cents Cents }

// Evolve subtracts it.
func (e Withdrawn) Evolve(p *Portfolio) {
	p.Available -= e.Cents
	p.Deposits -= e.Cents
}

// Reserved says that the order may go to its book, which it does as the
// Number-th of this portfolio. To buy, Cash is set aside; to sell, Quantity.
type Reserved struct {
	Order    OrderID
	Request  string `json:",omitempty"`
	Book     BookID
	Number   int64
	Side     Side
	Quantity Quantity
	Limit    Cents
	Cash     Cents
}

// Evolve moves from available to reserved.
func (e Reserved) Evolve(p *Portfolio) {
	if e.Side == Buy {
		p.Available -= e.Cash
		p.Reserved += e.Cash
	} else {
		p.holding(e.Book, -e.Quantity, e.Quantity)
	}
	if p.Orders == nil {
		p.Orders = make(map[OrderID]Reservation)
	}
	p.Orders[e.Order] = Reservation{Book: e.Book, Side: e.Side, Limit: e.Limit, Remaining: e.Quantity}
	p.link(e.Book, func(l *Link) { l.Orders = e.Number })
}

// Settled says that this portfolio's side of a trade is done. A buyer paid Cash
// from the reservation and got Returned of it back, because the trade was below
// his limit; a seller gave Quantity from the reservation and was paid Cash.
type Settled struct {
	Book     BookID
	Notice   int64
	Trade    int64
	Order    OrderID
	Side     Side
	Quantity Quantity
	Cash     Cents
	Returned Cents `json:",omitempty"`
}

// Evolve exchanges cash and shares.
func (e Settled) Evolve(p *Portfolio) {
	if e.Side == Buy {
		p.Reserved -= e.Cash + e.Returned
		p.Available += e.Returned
		p.holding(e.Book, e.Quantity, 0)
	} else {
		p.Available += e.Cash
		p.holding(e.Book, 0, -e.Quantity)
	}
	p.reduce(e.Order, e.Quantity)
	p.link(e.Book, func(l *Link) { l.Notices = e.Notice })
}

// Released says that the order is over and the rest of its reservation is
// available again: Cash to a buyer, Quantity to a seller.
type Released struct {
	Book     BookID
	Notice   int64
	Order    OrderID
	Side     Side
	Quantity Quantity
	Cash     Cents `json:",omitempty"`
}

// Evolve moves from reserved to available.
func (e Released) Evolve(p *Portfolio) {
	if e.Side == Buy {
		p.Reserved -= e.Cash
		p.Available += e.Cash
	} else {
		p.holding(e.Book, e.Quantity, -e.Quantity)
	}
	p.reduce(e.Order, e.Quantity)
	p.link(e.Book, func(l *Link) { l.Notices = e.Notice })
}

// Received says that the first shares of a company came in.
type Received struct {
	Book     BookID
	Notice   int64
	Quantity Quantity
}

// Evolve adds them.
func (e Received) Evolve(p *Portfolio) {
	p.holding(e.Book, e.Quantity, 0)
	p.link(e.Book, func(l *Link) { l.Notices = e.Notice })
}
