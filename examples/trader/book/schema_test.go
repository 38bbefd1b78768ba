package book

import (
	"testing"

	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
)

func TestWhatIsStoredCanBeRead(t *testing.T) { aggregatetest.Schema(t, Books) }
