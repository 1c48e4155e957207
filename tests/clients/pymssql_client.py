"""Speaks TDS 5.0 through pymssql: one request for each line of standard input, and what came back as lines of standard output.

Usage: pymssql_client.py HOST PORT USER PASSWORD. The environment has TDSVER=5.0.
"""

import sys

from pymssql import _mssql


def say(word, *texts):
    print(word, *(str(text).replace("\n", " ") for text in texts), sep="\t", flush=True)


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def request(connection, sql):
    try:
        connection.execute_query(sql)
        while True:
            for row in connection:
                values = (text(value) for column, value in row.items() if isinstance(column, int))
                print("row", *values, sep="\t")
            if not connection.nextresult():
                break
    except _mssql.MSSQLException as error:
        say("error" if connection.connected else "lost", error)
    say("end")


def main():
    host, port, user, password = sys.argv[1:]
    try:
        connection = _mssql.connect(
            server=host, port=port, user=user, password=password, appname="pymssql", charset="UTF-8",
            tds_version=None, conn_properties="",
        )
    except _mssql.MSSQLException as error:
        say("refused", error)
        return
    say("ready")
    for line in sys.stdin:
        request(connection, line.rstrip("\n"))
    connection.close()


main()
