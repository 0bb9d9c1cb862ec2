#include "pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace gpuprep {
namespace {

constexpr unsigned kMaxThreads = 256;
constexpr std::size_t kChunksPerWorker = 16;  // evens out chunks of unequal cost

// One parallel_for call. It lives on its caller's stack: the caller leaves only when `helpers` is 0.
struct Job {
    RangeBody body;
    void* context;
    std::size_t n, chunk;
    std::atomic<std::size_t> next{0};
    unsigned wanted;       // further helpers it could use; guarded by Pool::mutex
    unsigned helpers = 0;  // threads inside work(); guarded by Pool::mutex
    std::condition_variable idle;
    std::exception_ptr error;
    std::atomic_flag failed = ATOMIC_FLAG_INIT;

    Job(RangeBody body_, void* context_, std::size_t n_, std::size_t chunk_, unsigned wanted_)
        : body(body_), context(context_), n(n_), chunk(chunk_), wanted(wanted_) {}

    void work() noexcept {
        try {
            for (std::size_t begin; (begin = next.fetch_add(chunk, std::memory_order_relaxed)) < n;)
                body(context, begin, std::min(n, begin + chunk));
        } catch (...) {
            if (!failed.test_and_set()) error = std::current_exception();
            next.store(n, std::memory_order_relaxed);
        }
    }
};

struct Pool {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<Job*> jobs;
    unsigned threads = 0;

    void help() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            wake.wait(lock, [this] { return !jobs.empty(); });
            Job& job = *jobs.front();
            if (--job.wanted == 0) jobs.pop_front();
            ++job.helpers;
            lock.unlock();
            job.work();
            lock.lock();
            if (--job.helpers == 0) job.idle.notify_one();
        }
    }

    void run(Job& job) {
        const unsigned helpers = std::min(job.wanted, kMaxThreads);
        {
            const std::lock_guard<std::mutex> lock(mutex);
            try {
                for (; threads < helpers; ++threads) std::thread([this] { help(); }).detach();
            } catch (const std::system_error&) {
                // No more threads to be had: the work is done by those there are.
            }
            jobs.push_back(&job);
        }
        for (unsigned i = 0; i < helpers; ++i) wake.notify_one();
        job.work();
        std::unique_lock<std::mutex> lock(mutex);
        jobs.erase(std::remove(jobs.begin(), jobs.end(), &job), jobs.end());
        job.idle.wait(lock, [&job] { return job.helpers == 0; });
    }
};

// Never destroyed: helpers may outlive static destructors. A forked child forgets its parent's pool, whose threads it
// does not have and whose mutex may be held by one of them.
std::atomic<Pool*> current{nullptr};

Pool& pool() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
    static_cast<void>(registered);
    Pool* found = current.load();
    if (found == nullptr) {
        Pool* fresh = new Pool;
        if (current.compare_exchange_strong(found, fresh)) return *fresh;
        delete fresh;
    }
    return *found;
}

}  // namespace

void parallel_for_raw(std::size_t n, std::size_t grain, unsigned workers, RangeBody body, void* context) {
    if (n == 0) return;
    const std::size_t even = (n - 1) / (std::max(1u, workers) * kChunksPerWorker) + 1;
    const std::size_t chunk = std::min(n, std::max({std::size_t(1), grain, even}));
    const std::size_t chunks = (n - 1) / chunk + 1;
    if (workers <= 1 || chunks == 1) return body(context, 0, n);
    Job job(body, context, n, chunk, unsigned(std::min<std::size_t>(workers, chunks)) - 1);
    pool().run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace gpuprep
