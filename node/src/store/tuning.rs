//! RocksDB's options: for small devices, a quick start and no silent loss.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Error, InfoLogger, LogLevel, Options};

use super::errors::Notices;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Blocks, indexes and filters in memory, of all tables together.
const CACHE_BYTES: usize = 16 * MIB;
/// Writes in memory, of all tables together; the largest is written out when they are more.
const WRITES_BYTES: usize = 8 * MIB;
/// Writes in memory of one table.
const TABLE_WRITES_BYTES: usize = 4 * MIB;
/// What a table allocates at its first write. RocksDB's own eighth of a table's writes would let eleven tables with a
/// handful of rows fill `WRITES_BYTES`.
const ARENA_BYTES: usize = 64 * KIB;
/// Write-ahead logs on disk: what an open replays at most.
const LOGS_BYTES: u64 = 16 * MIB as u64;
const FILE_BYTES: u64 = 8 * MIB as u64;
const OPEN_FILES_MAX: i32 = 256;
const THREADS: i32 = 2;
/// How much is written before the kernel is asked to start writing it out, so that a sync never waits for much.
const BYTES_PER_SYNC: u64 = 512 * KIB as u64;
const BLOOM_BITS_PER_KEY: f64 = 10.0;

/// The options of one store; its tables share a cache.
pub(super) struct Tuning {
    cache: Cache,
    base: Options,
}

impl Tuning {
    /// What RocksDB logs goes to `notices`; it writes no LOG files.
    pub(super) fn new(notices: &Notices) -> Result<Tuning, Error> {
        // The binding has no setter for it: without, every open would write all tables out.
        let mut base = Options::default().get_options_from_string("avoid_flush_during_recovery=true")?;
        let notices = notices.clone();
        base.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, move |level, line| {
            notices.note(level, line)
        }));
        Ok(Tuning { cache: Cache::new_lru_cache(CACHE_BYTES), base })
    }

    /// Options of the database.
    pub(super) fn database(&self, is_new: bool) -> Options {
        let mut options = self.base.clone();
        options.create_if_missing(is_new);
        options.create_missing_column_families(is_new);
        options.set_paranoid_checks(true);
        // Also turns off the recycling of logs, which cannot tell an old record from a damaged one.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_db_write_buffer_size(WRITES_BYTES);
        options.set_max_total_wal_size(LOGS_BYTES);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_max_file_opening_threads(1);
        options.set_max_background_jobs(THREADS);
        options.set_bytes_per_sync(BYTES_PER_SYNC);
        options.set_wal_bytes_per_sync(BYTES_PER_SYNC);
        options.set_writable_file_max_buffer_size(256 * KIB as u64);
        options.set_compaction_readahead_size(256 * KIB);
        options.set_manifest_preallocation_size(64 * KIB);
        options.set_max_manifest_file_size(MIB);
        options.set_skip_stats_update_on_db_open(true);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }

    /// Options of a table.
    pub(super) fn table(&self) -> Options {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&self.cache);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
        blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);

        let mut options = self.base.clone();
        options.set_block_based_table_factory(&blocks);
        options.set_write_buffer_size(TABLE_WRITES_BYTES);
        options.set_max_write_buffer_number(2);
        options.set_arena_block_size(ARENA_BYTES);
        options.set_target_file_size_base(FILE_BYTES);
        options.set_max_bytes_for_level_base(4 * FILE_BYTES);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_bottommost_compression_type(DBCompressionType::Zstd);
        options
    }
}
