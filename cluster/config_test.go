package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPeersAreToldAnAddressTheyCanReach(t *testing.T) {
	for _, c := range []struct{ listen, advertise, says string }{
		{"", "", ""},
		{"127.0.0.1:0", "", ""},
		{"10.0.0.5:7400", "", ""},
		{"[fe80::1%eth0]:7400", "", ""},
		{"node-1.example:7400", "", ""},
		{"0.0.0.0:7400", "", "Config.Advertise"},
		{"[::]:7400", "", "Config.Advertise"},
		{"[::ffff:0.0.0.0]:7400", "", "Config.Advertise"},
		{":7400", "", "Config.Advertise"},
		{":0", "", "Config.Advertise"},
		{"0.0.0.0:7400", "10.0.0.5:7400", ""},
		{":7400", "node-1.example:31000", ""},
		{":7400", "0.0.0.0:7400", `Config.Advertise "0.0.0.0:7400"`},
		{"127.0.0.1:0", ":7400", `Config.Advertise ":7400"`},
		{"127.0.0.1:0", "10.0.0.5:0", `Config.Advertise "10.0.0.5:0"`},
		{"127.0.0.1:0", "10.0.0.5", `Config.Advertise "10.0.0.5"`},
	} {
		err := (&Config{Listen: c.listen, Advertise: c.advertise}).validateAddresses()
		if c.says == "" {
			require.NoError(t, err, "%+v", c)
		} else {
			require.ErrorContains(t, err, c.says, "%+v", c)
		}
	}
}
