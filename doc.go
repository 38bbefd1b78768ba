// Package ingrain is the root of a framework for event-sourced aggregates as
// virtual actors: every aggregate is owned by one node at a time, runs one
// command at a time, and rebuilds itself from the shared event store wherever it
// is needed next. The store refuses every write of a node that no longer owns
// what it writes to, so ownership holds through crashes, pauses and splits.
//
// The package itself is empty. From the ground up:
//
//   - aggregate: the vocabulary in which a domain is written
//   - persistence: the contract with the store; persistence/memory,
//     persistence/sqlite and persistence/postgres fulfil it
//   - eventsourcing: journal, codecs, snapshots
//   - actor: one aggregate in memory, and the lanes that commit for many
//   - cluster: nodes, ownership, routing; start here with cluster.Start
//
// The kits aggregate/aggregatetest, persistence/persistencetest and
// cluster/clustertest help to test a domain, a store and a whole cluster.
// docs/README.md is the map of everything written about it.
package ingrain
