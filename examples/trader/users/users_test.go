package users

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
)

func TestANameIsTakenOnce(t *testing.T) {
	aggregatetest.For(t, Users).
		When(SignUp{" Ann "}).Then(SignedUp{"Ann"}).
		When(SignUp{"Ann"}).ThenRejected(ErrTaken).
		When(SignUp{"ANN"}).ThenRejected(ErrTaken).
		When(SignUp{""}).ThenRejected(ErrName)
}

func TestSpellingsOfANameAreOneUser(t *testing.T) {
	for _, name := range []string{"Ann", "ANN", " ann "} {
		id, err := ID(name)
		require.NoError(t, err)
		require.Equal(t, "ann", id)
	}
	for _, name := range []string{"", "  ", "a b", "ann/1", "änn", "a\x00", "a-name-that-is-longer-than-the-limit"} {
		_, err := ID(name)
		require.ErrorIs(t, err, ErrName, name)
	}
}
