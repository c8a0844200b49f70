// Package vfs is the small part of a file system that a careful writer needs, as an interface, so that tests can make any single
// operation fail (see errorfs). WriteAtomic is that careful writer: a file appears under its name complete and on the disk, or not
// at all.
//
// A caller that keeps a folder of such files removes leftovers of crashed writers, which IsTemp recognises, when it opens the folder
// to write in it.
//
//	err := vfs.WriteAtomic(vfs.OS{}, "/run/state.json", 0o644, func(w io.Writer) error {
//		return json.NewEncoder(w).Encode(state)
//	})
package vfs
