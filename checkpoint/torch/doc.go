// Package torch reads the tensors of files that torch.save wrote (.pth, .pt, .th, .tar), and executes nothing of them.
//
// Such a file is a pickle, a program for a stack machine that may call any function of Python, and the bytes of storages that its
// tensors look at. Here the machine knows only the instructions that dicts of tensors are made of, and of functions only the few that
// rebuild a tensor; whatever else a file asks for is an error that names it. Both layouts are read: the zip archive that PyTorch
// writes since 1.6, and the stream of pickles and raw storages from before.
//
// A file is foreign: its size, the instructions, strings, stack and memo of its pickle, and the memory that its tensors take are
// bounded; a tensor must lie inside its storage and share no value with another one.
//
//	arrays, err := torch.Load(vfs.OS{}, "resnet50.pth", checkpoint.DefaultMaxBytes)
//	err = checkpoint.ImportWeights(arrays, table, state, checkpoint.ImportOptions{})
package torch
