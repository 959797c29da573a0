/*
 * PROCMAP_QUERY (Linux 6.11, <linux/fs.h>): the mappings of one device's files in a process, without
 * the text of /proc/PID/maps. Declared here, as the headers of most machines are older.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

struct procmap_query_ {
	uint64_t size, query_flags, query_addr;                           /* in */
	uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset; /* out */
	uint64_t inode;
	uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
	uint64_t vma_name_addr, build_id_addr;
};

#define PROCMAP_QUERY_ _IOWR('f', 17, struct procmap_query_)
#define PROCMAP_SHARED_ 0x08
#define PROCMAP_COVERING_OR_NEXT_ 0x10
#define PROCMAP_FILE_BACKED_ 0x20

struct procmap_found {
	uint64_t start, end, offset, ino, shared;
};

/*
 * Find up to room mappings of files of device major:minor from address *at on; fd is an open
 * /proc/PID/maps. Returns how many; *at is where to go on, 0 at the end. Negative: -errno (-ENOTTY: the
 * kernel is older; -ESRCH: it has no memory).
 */
static int procmap_find(int fd, unsigned major, unsigned minor, uint64_t *at,
			struct procmap_found *found, int room)
{
	int count = 0;

	while (count < room) {
		struct procmap_query_ query;

		memset(&query, 0, sizeof query);
		query.size = sizeof query;
		query.query_flags = PROCMAP_COVERING_OR_NEXT_ | PROCMAP_FILE_BACKED_;
		query.query_addr = *at;
		if (ioctl(fd, PROCMAP_QUERY_, &query) < 0) {
			if (errno == EINTR)
				continue;
			if (errno != ENOENT)
				return -errno;
			*at = 0;
			return count;
		}
		*at = query.vma_end;
		if (query.dev_major != major || query.dev_minor != minor)
			continue;
		found[count].start = query.vma_start;
		found[count].end = query.vma_end;
		found[count].offset = query.vma_offset;
		found[count].ino = query.inode;
		found[count].shared = (query.vma_flags & PROCMAP_SHARED_) != 0;
		count++;
	}
	return count;
}
