/*
 * The ioctl FVRANGE, which marks or unmarks one range. It is decoded here, and answered from here as
 * soon as Python (native/data.py) has done it: as bytes to and fro it would cost more than the mark.
 */
#include "../fvrange.h"

#define SHIM_LATER INT64_MIN

/*
 * Defined by cffi from the declarations in build_shim.py. Bytes found purged, -errno, or SHIM_LATER
 * if it may have to wait: then nothing has changed.
 */
static int64_t shim_on_fvrange(uint64_t fh, uint64_t start, uint64_t length, unsigned mode,
			       unsigned behavior, int tid);

/* Answer an ioctl, if it is FVRANGE and has nothing to wait for. Has it been answered? */
static int answered_fvrange(fuse_req_t req, uint64_t fh, unsigned cmd, const void *in,
			    size_t in_size, size_t out_size)
{
	struct fvrange_args args;
	int64_t purged;

	if (cmd != FVRANGE_IOC_FVRANGE || in_size < sizeof args || out_size < sizeof args)
		return 0;
	memcpy(&args, in, sizeof args);
	purged = shim_on_fvrange(fh, args.start, args.length, args.mode, args.behavior,
				 fuse_req_ctx(req)->pid);
	if (purged == SHIM_LATER)
		return 0;
	args.purged = (__u64)purged;
	if (purged < 0)
		fuse_reply_err(req, (int)-purged);
	else
		fuse_reply_ioctl(req, 0, &args, sizeof args);
	return 1;
}
