// The one thread pool of the process. Threads start on first need and are kept; a forked child starts with none.
#pragma once
#include <cstddef>
#include <type_traits>

namespace gpuprep {

using RangeBody = void (*)(void* context, std::size_t begin, std::size_t end);

// Calls body on ranges of at least `grain` items (the last may be shorter) that cover [0, n), on the calling thread
// and on at most workers - 1 others; returns when all is done. The first exception of a body is rethrown here.
// May be called from several threads at once and from within a body.
void parallel_for_raw(std::size_t n, std::size_t grain, unsigned workers, RangeBody body, void* context);

// parallel_for(n, grain, workers, [&](std::size_t begin, std::size_t end) { ... });
template <class Body>
void parallel_for(std::size_t n, std::size_t grain, unsigned workers, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    parallel_for_raw(
        n, grain, workers,
        [](void* context, std::size_t begin, std::size_t end) { (*static_cast<Plain*>(context))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace gpuprep
