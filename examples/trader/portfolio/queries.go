package portfolio

import (
	"cmp"
	"slices"
)

// Statement asks for everything in the portfolio.
type Statement struct{}

// View is a portfolio as people see it.
type View struct {
	Owner     string  `json:"owner"`
	Available Cents   `json:"available"`
	Reserved  Cents   `json:"reserved"`
	Holdings  []Stock `json:"holdings"` // by book
	Orders    []Order `json:"orders"`   // by id, which is by age
}

// Stock is the shares of one company.
type Stock struct {
	Book      BookID   `json:"book"`
	Available Quantity `json:"available"`
	Reserved  Quantity `json:"reserved"`
}

// Order is an open order.
type Order struct {
	ID        OrderID  `json:"id"`
	Book      BookID   `json:"book"`
	Side      Side     `json:"side"`
	Limit     Cents    `json:"limit"`
	Remaining Quantity `json:"remaining"`
}

// Answer copies the state.
func (Statement) Answer(p Portfolio) (View, error) {
	if p.Owner == "" {
		return View{}, ErrNotOpen
	}
	v := View{
		Owner: p.Owner, Available: p.Available, Reserved: p.Reserved,
		Holdings: make([]Stock, 0, len(p.Holdings)), Orders: make([]Order, 0, len(p.Orders)),
	}
	for id, h := range p.Holdings {
		v.Holdings = append(v.Holdings, Stock{Book: id, Available: h.Available, Reserved: h.Reserved})
	}
	for id, r := range p.Orders {
		v.Orders = append(v.Orders, Order{ID: id, Book: r.Book, Side: r.Side, Limit: r.Limit, Remaining: r.Remaining})
	}
	slices.SortFunc(v.Holdings, func(a, b Stock) int { return cmp.Compare(a.Book, b.Book) })
	slices.SortFunc(v.Orders, func(a, b Order) int { return cmp.Compare(a.ID, b.ID) })
	return v, nil
}
