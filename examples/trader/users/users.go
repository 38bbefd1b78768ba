// Package users is who trades here.
//
// A user's id is his name in its normal form, so that a name can be taken by
// one user only: two spellings of one name are the same aggregate.
package users

import (
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
)

// MaxName bounds a name, in bytes.
const MaxName = 32

// What a user is refused.
var (
	ErrName  = aggregate.Reject("invalid-name", "a name is 1 to 32 letters a-z, digits, dots, dashes and underscores")
	ErrTaken = aggregate.Reject("name-taken", "the name is taken")
)

// ID is the normal form of a name, or [ErrName].
func ID(name string) (string, error) {
	id := strings.ToLower(strings.TrimSpace(name))
	if id == "" || len(id) > MaxName {
		return "", ErrName
	}
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.' {
			return "", ErrName
		}
	}
	return id, nil
}

// User is the state. The zero value is a user who has not signed up.
type User struct {
	// Name as the user spells it; its normal form is the aggregate's id.
	Name string
}

// Event is an event of a user.
type Event = aggregate.Event[User]

// Users is the aggregate type. The id is [ID] of the name.
var Users = aggregate.Define("user",
	aggregate.Accepts[SignUp]("sign-up"),
	aggregate.Records[SignedUp]("signed-up"),
)

// SignUp takes the name for good.
type SignUp struct{ Name string }

// Decide wants the name to be free.
func (c SignUp) Decide(u User) ([]Event, error) {
	if _, err := ID(c.Name); err != nil {
		return nil, err
	}
	if u.Name != "" {
		return nil, ErrTaken
	}
	return []Event{SignedUp{Name: strings.TrimSpace(c.Name)}}, nil
}

// SignedUp says that there is a user.
type SignedUp struct{ Name string }

// Evolve takes the name.
func (e SignedUp) Evolve(u *User) { u.Name = e.Name }
