"""Device memory under a descriptor, so that two processes look at the same bytes.

Used on both sides of a sandbox: nothing of SIA is imported. On CUDA it is made by the driver's calls for virtual
memory, whose handles are descriptors and can be handed over a socket; PyTorch's own handles need processes that see
each other. A file without a name stands in for it on a machine without a device.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Any

import torch


class Shared:
    """``bytes`` is a uint8 tensor over memory of at least ``size`` bytes, new or what ``descriptor`` stands for.

    ``size`` is how many there are. The descriptor is closed with the memory, whose tensors
    must not be used afterwards. MemoryError where the device has no more.
    """

    def __init__(self, size: int, device: str, descriptor: int | None = None) -> None:
        self._memory = _OnDevice(size, descriptor) if device == "cuda" else _InFile(size, descriptor)
        self.size, self.descriptor, self.bytes = self._memory.size, self._memory.descriptor, self._memory.bytes

    def floats(self, start: int, shape: Sequence[int]) -> torch.Tensor:
        """A float32 tensor over the bytes from ``start`` on, a multiple of 4."""
        count = 4 * torch.Size(shape).numel()
        return self.bytes[start : start + count].view(torch.float32).view(shape)

    def close(self) -> None:
        """Give it back; the memory itself goes when every process has."""
        del self.bytes
        self._memory.close()
        os.close(self.descriptor)


class _InFile:
    def __init__(self, size: int, descriptor: int | None) -> None:
        self.size = size
        if descriptor is None:
            descriptor = os.memfd_create("device", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(descriptor, size)
            # A process that reads what another has cut off is killed.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.descriptor = descriptor
        self.bytes = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)

    def close(self) -> None:
        del self.bytes


class _OnDevice:
    def __init__(self, size: int, descriptor: int | None) -> None:
        from cuda.bindings import driver

        self._driver = driver
        torch.cuda.current_stream()  # the driver's calls are for the context that PyTorch has made
        handles = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        about = driver.CUmemAllocationProp()
        about.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        about.requestedHandleTypes = handles
        about.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        about.location.id = torch.cuda.current_device()
        smallest = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        step = int(self._ask(driver.cuMemGetAllocationGranularity(about, smallest)))
        self.size = -(-size // step) * step
        if descriptor is None:
            handle = self._ask(driver.cuMemCreate(self.size, about, 0))
            self.descriptor = int(self._ask(driver.cuMemExportToShareableHandle(handle, handles, 0)))
        else:
            handle = self._ask(driver.cuMemImportFromShareableHandle(descriptor, handles))
            self.descriptor = descriptor
        try:
            self._start = self._ask(driver.cuMemAddressReserve(self.size, 0, 0, 0))
            self._ask(driver.cuMemMap(self._start, self.size, 0, handle, 0))
            access = driver.CUmemAccessDesc()
            access.location = about.location
            access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
            self._ask(driver.cuMemSetAccess(self._start, self.size, [access], 1))
        except BaseException:
            os.close(self.descriptor)  # the rest goes with the process, or with its handle
            raise
        finally:
            # What is mapped stays when its handle is released.
            self._ask(driver.cuMemRelease(handle))
        view = {"shape": (self.size,), "typestr": "|u1", "data": (int(self._start), False), "version": 3}
        self.__cuda_array_interface__ = view
        self.bytes = torch.as_tensor(self, device="cuda")

    def close(self) -> None:
        del self.bytes
        torch.cuda.synchronize()
        self._ask(self._driver.cuMemUnmap(self._start, self.size))
        self._ask(self._driver.cuMemAddressFree(self._start, self.size))

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        """The value of a driver's call. MemoryError or OSError if it failed."""
        error, *values = answer
        if error == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise MemoryError("no memory is left on the device")
        if error != self._driver.CUresult.CUDA_SUCCESS:
            raise OSError(f"the CUDA driver answered {error.name}")
        return values[0] if values else None
