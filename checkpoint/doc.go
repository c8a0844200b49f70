// Package checkpoint keeps training state on disk: written whole or not at all, checked when read, and named by its step.
//
// A Checkpoint is the state after a step together with what is needed to go on from it: config, schedule state and data position, as
// JSON that this package stores and does not read. A Store is a folder of them. Its one writer calls Save, beside
// training if it likes; anyone may List, Load and Verify. Latest gives the newest one that verifies, and says which newer
// ones it had to pass over and where they are damaged. The file format is in docs/design/0003-checkpoint-format.md.
//
// The caller keeps a checkpoint's tensors still until Save returns. It supplies the Table, which says how the flat slices of a
// snapshot.Snapshot are cut into named tensors.
//
//	store, err := checkpoint.Open(checkpoint.DefaultOptions(dir))
//	c, err := checkpoint.FromSnapshot(state, table)
//	c.Config, c.Data = config, position
//	path, err := store.Save(ctx, c)
//	...
//	c, skipped, err := store.Latest(ctx)
//	state, err := c.Snapshot(table)
//
// Weights travel to and from other programs as safetensors: WriteSafetensors, ReadSafetensors, ExportWeights, ImportWeights.
package checkpoint
