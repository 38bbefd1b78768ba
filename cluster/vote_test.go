package cluster

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

// ballots makes members of votes: "a:bc b: c:a" is three members of whom a votes
// against b and c, b against nobody, and c against a.
func ballots(votes string) []persistence.Node {
	var members []persistence.Node
	for _, ballot := range strings.Fields(votes) {
		voter, against, _ := strings.Cut(ballot, ":")
		m := persistence.Node{ID: persistence.NodeID(voter), State: persistence.Active}
		for _, suspect := range strings.Split(against, "") {
			m.Suspects = append(m.Suspects, persistence.NodeID(suspect))
		}
		members = append(members, m)
	}
	return members
}

func TestVotesOnSilence(t *testing.T) {
	for name, c := range map[string]struct{ votes, evicted string }{
		"one alone":                            {"a:", ""},
		"two that see each other":              {"a: b:", ""},
		"two that do not":                      {"a:b b:a", ""},
		"two, one way":                         {"a:b b:", ""},
		"three, one cut off":                   {"a:c b:c c:ab", "c"},
		"three, one cut off and unaware":       {"a:c b:c c:", "c"},
		"three, one link cut":                  {"a:b b:a c:", ""},
		"three, one link cut in one direction": {"a:b b: c:", ""},
		"three, all cut":                       {"a:bc b:ac c:ab", ""},
		"three, two cut off from the third only in its eyes": {"a: b: c:ab", ""},
		"four, one cut off":                  {"a:d b:d c:d d:abc", "d"},
		"four, cut off from two of three":    {"a:d b:d c: d:ab", ""},
		"four in two halves":                 {"a:cd b:cd c:ab d:ab", ""},
		"four, all cut":                      {"a:bcd b:acd c:abd d:abc", ""},
		"five, one cut off":                  {"a:e b:e c:e d:e e:abcd", "e"},
		"five, three against two":            {"a:de b:de c:de d:abc e:abc", "de"},
		"five, three against two, two blind": {"a:de b:de c:de d: e:", "de"},
		"five, four alone":                   {"a:bcde b:acde c:abde d:abce e:abcd", ""},
		"five, half of the votes of four":    {"a:e b:e c: d: e:", ""},
		"votes against strangers":            {"a:xyz b:xyz c:xyz", ""},
		"a stranger's suspects are many":     {"a:cxyz b:cxyz c:", "c"},
		"a vote against oneself":             {"a:a b:a c:", ""},
	} {
		t.Run(name, func(t *testing.T) {
			members := ballots(c.votes)
			for _, m := range members {
				require.Equal(t, strings.Contains(c.evicted, string(m.ID)), condemned(members, m.ID, false), "%s", m.ID)
			}
			require.False(t, condemned(members, "x", false), "who is no member is not evicted")
		})
	}
}

// The observer is always a, and it was told that nobody listens at the victim's.
func TestVotesOnRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		votes, victim string
		evicted       bool
	}{
		"the only other one":                 {"a:b b:", "b", true},
		"the only other one says so as well": {"a:b b:a", "b", true},
		"three, seen by one":                 {"a:c b: c:", "c", false},
		"three, seen by both":                {"a:c b:c c:", "c", true},
		"three, all refuse all":              {"a:bc b:ac c:ab", "c", false},
		"five, seen by one":                  {"a:e b: c: d: e:", "e", false},
		"five, seen by two":                  {"a:e b:e c: d: e:", "e", true},
		"five, two that see few others":      {"a:cde b:cde c: d: e:", "e", false},
		"five, two die at once":              {"a:de b:de c: d: e:", "e", true},
		"no member":                          {"a:x b:x c:x", "x", false},
		"no member any more, beside one":     {"a:x b:x", "x", false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.evicted, condemned(ballots(c.votes), persistence.NodeID(c.victim), true))
		})
	}
}
