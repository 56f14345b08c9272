package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

type natEntry struct {
	Created, NeedsCt, Pad1, Pad2 uint64
	Address                      [4]byte
	Port                         [2]byte
	Pad3                         [2]byte
}

// A slice that goes to the kernel as it is.
func (t tuples) MarshalBinary() ([]byte, error) {
	return unsafe.Slice((*byte)(unsafe.Pointer(&t[0])), len(t)*int(unsafe.Sizeof(t[0]))), nil
}

const dsrInternal = 0x80

type collector struct {
	ct, nat                   *ebpf.Map
	expiredBefore             uint32
	seen, deleted, natDeleted int
}

// Both halves of the mapping of an egress entry: a look-up and two deletions.
func (c *collector) deleteMapping(ct *tuple, e *entry) {
	if c.nat == nil || ct.Flags != 0 || e.Flags&dsrInternal != 0 {
		return
	}
	out := *ct
	out.Daddr, out.Saddr = ct.Saddr, ct.Daddr
	var to natEntry
	if c.nat.Lookup(unsafe.Pointer(&out), unsafe.Pointer(&to)) != nil {
		return
	}
	if c.nat.Delete(unsafe.Pointer(&out)) == nil {
		c.natDeleted++
	}
	reverse := out
	reverse.Daddr, reverse.Dport = to.Address, to.Port
	reverse.Saddr, reverse.Sport = out.Daddr, out.Dport
	reverse.Flags = in
	if c.nat.Delete(unsafe.Pointer(&reverse)) == nil {
		c.natDeleted++
	}
}

func (c *collector) collect(key *tuple, e *entry) {
	if e.Lifetime >= c.expiredBefore || c.ct.Delete(unsafe.Pointer(key)) != nil {
		return
	}
	c.deleted++
	c.deleteMapping(key, e)
}

func (c *collector) byNextKey() error {
	var key, next tuple
	var value entry
	err := c.ct.NextKey(nil, unsafe.Pointer(&key))
	for err == nil {
		err = c.ct.NextKey(unsafe.Pointer(&key), unsafe.Pointer(&next))
		if c.ct.Lookup(unsafe.Pointer(&key), unsafe.Pointer(&value)) == nil {
			c.seen++
			c.collect(&key, &value)
		}
		key = next
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	return err
}

func (c *collector) byBatch(chunk int, each bool) error {
	dead := make(tuples, 0, chunk)
	return batches(c.ct, chunk, false, func(keys []tuple, values []entry) {
		c.seen += len(keys)
		dead = dead[:0]
		for i := range keys {
			if each {
				c.collect(&keys[i], &values[i])
			} else if values[i].Lifetime < c.expiredBefore {
				dead = append(dead, keys[i])
			}
		}
		if len(dead) > 0 {
			start := cpu()
			count, _ := c.ct.BatchDelete(dead, nil)
			called(start)
			c.deleted += count
		}
	})
}

// As collect.c: PIN collect-next-key NOW [0 NAT-PIN], PIN collect-each NOW CHUNK [NAT-PIN], PIN collect-batch NOW CHUNK.
func collect(m *ebpf.Map, arguments []string) error {
	now, err := strconv.ParseUint(arguments[1], 10, 32)
	if err != nil {
		return err
	}
	c := collector{ct: m, expiredBefore: uint32(now)}
	chunk := 0
	if len(arguments) > 2 {
		if chunk, err = strconv.Atoi(arguments[2]); err != nil {
			return err
		}
	}
	if len(arguments) > 3 {
		if c.nat, err = ebpf.LoadPinnedMap(arguments[3], nil); err != nil {
			return err
		}
	}
	start := time.Now()
	if arguments[0] == "collect-next-key" {
		err = c.byNextKey()
	} else {
		err = c.byBatch(chunk, arguments[0] == "collect-each")
	}
	if err == nil {
		fmt.Println(c.seen, c.deleted, c.natDeleted, time.Since(start).Nanoseconds(), longest)
	}
	return err
}
